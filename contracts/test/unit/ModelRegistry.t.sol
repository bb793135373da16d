// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { SafeCast } from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import { ModelRegistry } from "../../src/ModelRegistry.sol";
import { IModelRegistry } from "../../src/interfaces/IModelRegistry.sol";
import { ITaskCoordinator } from "../../src/interfaces/ITaskCoordinator.sol";
import { Cid, ModelResult } from "../../src/interfaces/Types.sol";
import { Test } from "../base/Test.sol";

/// @notice A vault, as far as the wiring goes.
contract VaultStub {
    address public coordinator;

    constructor(address coordinator_) {
        coordinator = coordinator_;
    }
}

/// @notice Has the results that a test gives it, until they are taken away.
contract ResultStub {
    struct Origin {
        address requester;
        bytes32 specHash;
        bytes32 parentModel;
        string licence;
    }

    address public vault;
    address public registry;

    mapping(uint256 taskId => ModelResult) private _results;
    mapping(uint256 taskId => bool) private _present;
    mapping(uint256 taskId => Origin) private _origins;

    function wire(address vault_, address registry_) external {
        (vault, registry) = (vault_, registry_);
    }

    function setResult(uint256 taskId, ModelResult calldata result) external {
        (_results[taskId], _present[taskId]) = (result, true);
    }

    function clearResult(uint256 taskId) external {
        _present[taskId] = false;
    }

    function setOrigin(uint256 taskId, Origin calldata origin) external {
        _origins[taskId] = origin;
    }

    function resultOf(uint256 taskId) external view returns (ModelResult memory) {
        if (!_present[taskId]) revert ITaskCoordinator.NoResult(taskId);
        return _results[taskId];
    }

    function originOf(uint256 taskId) external view returns (address, bytes32, bytes32, string memory) {
        Origin storage o = _origins[taskId];
        return (o.requester, o.specHash, o.parentModel, o.licence);
    }
}

/// @notice Answers every getter with the same bytes.
contract Parrot {
    bytes private _answer;

    constructor(bytes memory answer) {
        _answer = answer;
    }

    fallback(bytes calldata) external returns (bytes memory) {
        return _answer;
    }
}

/// @notice Follows ModelRegistry.tree.
contract ModelRegistryTest is Test {
    uint256 internal constant TASK = 3;
    bytes32 internal constant SPEC = keccak256("specification");
    string internal constant LICENCE = "Apache-2.0";

    address internal alice = vm.addr(0xA11CE);
    address internal bob = vm.addr(0xB0B);
    address internal carol = vm.addr(0xCA401);

    ResultStub internal coordinator;
    ModelRegistry internal registry;

    function setUp() external {
        vm.warp(1_000_000);
        vm.roll(500);
        coordinator = new ResultStub();
        address vault = address(new VaultStub(address(coordinator)));
        coordinator.wire(vault, _registryOf(address(coordinator)));
        registry = new ModelRegistry{ salt: 0 }(address(coordinator));
    }

    // --- construction --------------------------------------------------------------------------------

    function test_construction__rightWiring__keepsCoordinator() external view {
        vm.assertEq(registry.coordinator(), address(coordinator));
        vm.assertEq(registry.version(), "chainfl-2");
        vm.assertEq(registry.numModels(), 0);
    }

    function test_construction__coordinatorWithoutCode__reverts() external {
        _assertWrongWiring(alice);
        _assertWrongWiring(address(0));
    }

    function test_construction__coordinatorNamesAnotherRegistry__reverts() external {
        ResultStub other = new ResultStub();
        other.wire(address(new VaultStub(address(other))), address(registry));
        _assertWrongWiring(address(other));
    }

    function test_construction__vaultNamesAnotherCoordinator__reverts() external {
        ResultStub other = new ResultStub();
        VaultStub vault = new VaultStub(address(coordinator));
        other.wire(address(vault), _registryOf(address(other)));
        _assertWrongWiring(address(other));
    }

    function test_construction__vaultWithoutCode__reverts() external {
        ResultStub other = new ResultStub();
        other.wire(alice, _registryOf(address(other)));
        _assertWrongWiring(address(other));
    }

    function test_construction__coordinatorKnowsNoGetters__reverts() external {
        _assertWrongWiring(address(new VaultStub(address(0))));
    }

    function test_construction__answerIsNoAddress__reverts() external {
        _assertWrongWiring(address(new Parrot("")));
        _assertWrongWiring(address(new Parrot(abi.encode(type(uint256).max))));
        Parrot shortAnswer = new Parrot(abi.encodePacked(uint160(0)));
        _assertWrongWiring(address(shortAnswer));
        _assertWrongWiring(address(new Parrot(abi.encode(uint256(uint160(alice)) | 1 << 160))));
    }

    // --- register ------------------------------------------------------------------------------------

    function test_register__noResult__reverts() external {
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NoResult.selector, TASK));
        registry.register(TASK);
    }

    function test_register__genesis__opensLine() external {
        coordinator.setOrigin(TASK, ResultStub.Origin(alice, SPEC, 0, LICENCE));
        ModelResult memory result = _result(0);
        coordinator.setResult(TASK, result);
        bytes32 id = registry.modelIdOf(TASK, 0);

        vm.expectEmit();
        emit IModelRegistry.LineOpened(TASK, alice, SPEC, 0, LICENCE);
        vm.expectEmit();
        emit IModelRegistry.ModelRegistered(id, TASK, 0, 0, _model(0, TASK, result));
        vm.assertEq(registry.register(TASK), id);

        IModelRegistry.Line memory line = registry.lineOf(TASK);
        vm.assertEq(line.owner, alice);
        vm.assertFalse(line.restricted);
        vm.assertEq(line.versions, 1);
        vm.assertEq(line.specHash, SPEC);
        vm.assertEq(line.genesis, id);
        vm.assertEq(line.latest, id);
        vm.assertEq(line.licence, LICENCE);
        _assertModel(id, 0, TASK, result);
    }

    function test_register__parentExists__isNamedAcrossTasks() external {
        _genesis(TASK, alice, 0);
        bytes32 parent = _append(TASK, 1);
        bytes32 child = _genesis(TASK + 1, bob, parent);
        vm.assertEq(registry.modelOf(child).parent, parent);
        vm.assertEq(registry.lineOf(TASK + 1).owner, bob);

        // What happens later in the parent's line does not move the child.
        _append(TASK, 2);
        vm.assertEq(registry.modelOf(child).parent, parent);
        vm.assertEq(registry.modelOf(_append(TASK + 1, 1)).parent, child);
    }

    function test_register__parentUnknown__reverts() external {
        bytes32 parent = registry.modelIdOf(TASK, 1);
        _genesis(TASK, alice, 0);
        coordinator.setOrigin(TASK + 1, ResultStub.Origin(bob, SPEC, parent, LICENCE));
        coordinator.setResult(TASK + 1, _result(0));
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.UnknownModel.selector, parent));
        registry.register(TASK + 1);
        vm.assertEq(registry.numModels(), 1);
    }

    function test_register__parentIsItself__reverts() external {
        bytes32 itself = registry.modelIdOf(TASK, 0);
        coordinator.setOrigin(TASK, ResultStub.Origin(alice, SPEC, itself, LICENCE));
        coordinator.setResult(TASK, _result(0));
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.UnknownModel.selector, itself));
        registry.register(TASK);
    }

    function test_register__highestTaskId__isKept() external {
        bytes32 id = _genesis(type(uint64).max, alice, 0);
        vm.assertEq(registry.modelOf(id).taskId, type(uint64).max);
        vm.assertEq(registry.models(0, 1)[0], id);
    }

    function test_register__beyondHighestTaskId__reverts() external {
        uint256 taskId = uint256(type(uint64).max) + 1;
        coordinator.setOrigin(taskId, ResultStub.Origin(alice, SPEC, 0, LICENCE));
        coordinator.setResult(taskId, _result(0));
        vm.expectRevert(abi.encodeWithSelector(SafeCast.SafeCastOverflowedUintDowncast.selector, 64, taskId));
        registry.register(taskId);
    }

    function test_register__laterRound__followsLatest() external {
        bytes32 genesis = _genesis(TASK, alice, 0);
        ModelResult memory result = _result(1);
        coordinator.setResult(TASK, result);
        bytes32 id = registry.modelIdOf(TASK, 1);
        vm.warp(2_000_000);
        vm.roll(900);

        vm.expectEmit();
        emit IModelRegistry.ModelRegistered(id, TASK, genesis, 1, _model(genesis, TASK, result));
        registry.register(TASK);
        _assertModel(id, genesis, TASK, result);

        bytes32 next = _append(TASK, 2);
        vm.assertEq(registry.modelOf(next).parent, id);
        IModelRegistry.Line memory line = registry.lineOf(TASK);
        vm.assertEq(line.versions, 3);
        vm.assertEq(line.genesis, genesis);
        vm.assertEq(line.latest, next);
    }

    function test_register__voidRoundsBetween__areSkipped() external {
        bytes32 genesis = _genesis(TASK, alice, 0);
        bytes32 fourth = _append(TASK, 4);
        bytes32 last = _append(TASK, type(uint16).max);
        vm.assertEq(registry.modelOf(fourth).parent, genesis);
        vm.assertEq(registry.modelOf(last).parent, fourth);
        vm.assertEq(registry.lineOf(TASK).versions, 3);
        vm.assertFalse(registry.exists(registry.modelIdOf(TASK, 3)));
    }

    function test_register__otherTaskBetween__keepsLinesApart() external {
        bytes32 a0 = _genesis(TASK, alice, 0);
        bytes32 b0 = _genesis(TASK + 1, bob, 0);
        bytes32 a1 = _append(TASK, 1);
        bytes32 b1 = _append(TASK + 1, 1);
        vm.assertEq(registry.modelOf(a1).parent, a0);
        vm.assertEq(registry.modelOf(b1).parent, b0);
        vm.assertEq(registry.lineOf(TASK).latest, a1);
        vm.assertEq(registry.lineOf(TASK + 1).latest, b1);
    }

    function test_register__laterRoundWithoutGenesis__reverts() external {
        coordinator.setResult(TASK, _result(1));
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.UnknownModel.selector, registry.modelIdOf(TASK, 0)));
        registry.register(TASK);
    }

    function test_register__again__reverts() external {
        bytes32 genesis = _genesis(TASK, alice, 0);
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.AlreadyRegistered.selector, genesis));
        registry.register(TASK);

        bytes32 first = _append(TASK, 1);
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.AlreadyRegistered.selector, first));
        registry.register(TASK);
        vm.assertEq(registry.numModels(), 2);
    }

    function test_register__resultGone__reverts() external {
        _genesis(TASK, alice, 0);
        coordinator.clearResult(TASK);
        vm.expectRevert(abi.encodeWithSelector(ITaskCoordinator.NoResult.selector, TASK));
        registry.register(TASK);
    }

    function test_register__extremeValues__areKept() external {
        bytes32 genesis = _genesis(TASK, alice, 0);
        bytes32 full = bytes32(type(uint256).max);
        ModelResult memory result = ModelResult({
            round: type(uint16).max,
            attempt: type(uint8).max,
            accepted: type(uint16).max,
            openedBlock: type(uint40).max,
            aggregator: address(type(uint160).max),
            modelRoot: full,
            updatesHash: full,
            cid: Cid(full, type(uint8).max),
            floatCid: Cid(full, type(uint8).max)
        });
        coordinator.setResult(TASK, result);
        vm.warp(type(uint40).max);
        vm.roll(type(uint40).max);
        _assertModel(registry.register(TASK), genesis, TASK, result);
    }

    function test_register__byStranger__appendsTheSame() external {
        _genesis(TASK, alice, 0);
        coordinator.setResult(TASK, _result(1));
        vm.prank(carol);
        _assertModel(registry.register(TASK), registry.modelIdOf(TASK, 0), TASK, _result(1));
    }

    function test_register__longLicence__isKept() external {
        string memory licence = "LicenseRef-a-licence-whose-name-is-far-longer-than-thirty-one-bytes";
        coordinator.setOrigin(TASK, ResultStub.Origin(alice, SPEC, 0, licence));
        coordinator.setResult(TASK, _result(0));
        registry.register(TASK);
        vm.assertEq(registry.lineOf(TASK).licence, licence);
    }

    // --- owner's entries -----------------------------------------------------------------------------

    function test_ownersEntries__notOwner__revert() external {
        _genesis(TASK, alice, 0);
        bytes memory notOwner = abi.encodeWithSelector(IModelRegistry.NotOwner.selector, TASK, bob);
        vm.startPrank(bob);
        vm.expectRevert(notOwner);
        registry.setRestricted(TASK, true);
        vm.expectRevert(notOwner);
        registry.grantAccess(TASK, bob);
        vm.expectRevert(notOwner);
        registry.revokeAccess(TASK, alice);
        vm.expectRevert(notOwner);
        registry.transferOwnership(TASK, bob);
    }

    function test_ownersEntries__noLine__revert() external {
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.NotOwner.selector, TASK, alice));
        registry.setRestricted(TASK, true);
    }

    function test_setRestricted__owner__changesAndEmits() external {
        _genesis(TASK, alice, 0);
        vm.startPrank(alice);
        vm.expectEmit();
        emit IModelRegistry.AccessRestricted(TASK, true);
        registry.setRestricted(TASK, true);
        vm.assertTrue(registry.lineOf(TASK).restricted);
        vm.expectEmit();
        emit IModelRegistry.AccessRestricted(TASK, false);
        registry.setRestricted(TASK, false);
        vm.assertFalse(registry.lineOf(TASK).restricted);
    }

    function test_grantAccess__owner__changesAndEmits() external {
        _genesis(TASK, alice, 0);
        vm.expectEmit();
        emit IModelRegistry.AccessGranted(TASK, bob);
        vm.prank(alice);
        registry.grantAccess(TASK, bob);
        vm.assertTrue(registry.isGranted(TASK, bob));
        vm.assertFalse(registry.isGranted(TASK, carol));
        vm.assertFalse(registry.isGranted(TASK + 1, bob));
    }

    function test_revokeAccess__owner__changesAndEmits() external {
        _genesis(TASK, alice, 0);
        vm.startPrank(alice);
        registry.grantAccess(TASK, bob);
        vm.expectEmit();
        emit IModelRegistry.AccessRevoked(TASK, bob);
        registry.revokeAccess(TASK, bob);
        vm.assertFalse(registry.isGranted(TASK, bob));
    }

    function test_transferOwnership__owner__losesIt() external {
        _genesis(TASK, alice, 0);
        vm.expectEmit();
        emit IModelRegistry.OwnershipTransferred(TASK, alice, bob);
        vm.prank(alice);
        registry.transferOwnership(TASK, bob);
        vm.assertEq(registry.lineOf(TASK).owner, bob);

        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.NotOwner.selector, TASK, alice));
        registry.setRestricted(TASK, true);
        vm.prank(bob);
        registry.setRestricted(TASK, true);
    }

    function test_transferOwnership__toNobody__reverts() external {
        _genesis(TASK, alice, 0);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.InvalidOwner.selector, TASK, address(0)));
        registry.transferOwnership(TASK, address(0));
    }

    // --- hasAccess -----------------------------------------------------------------------------------

    function test_hasAccess__unknownModel__reverts() external {
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.UnknownModel.selector, SPEC));
        registry.hasAccess(SPEC, alice);
    }

    function test_hasAccess__publicLine__isTrueForAnybody() external {
        bytes32 id = _genesis(TASK, alice, 0);
        vm.assertTrue(registry.hasAccess(id, alice));
        vm.assertTrue(registry.hasAccess(id, carol));
    }

    function test_hasAccess__restrictedLine__isTrueForOwnerAndGranted() external {
        bytes32 genesis = _genesis(TASK, alice, 0);
        vm.startPrank(alice);
        registry.setRestricted(TASK, true);
        registry.grantAccess(TASK, bob);
        vm.stopPrank();
        bytes32 first = _append(TASK, 1);
        for (uint256 i; i < 2; ++i) {
            bytes32 id = i == 0 ? genesis : first;
            vm.assertTrue(registry.hasAccess(id, alice));
            vm.assertTrue(registry.hasAccess(id, bob));
            vm.assertFalse(registry.hasAccess(id, carol));
        }

        vm.prank(alice);
        registry.revokeAccess(TASK, bob);
        vm.assertFalse(registry.hasAccess(first, bob));
    }

    function test_hasAccess__formerOwner__isFalse() external {
        bytes32 id = _genesis(TASK, alice, 0);
        vm.startPrank(alice);
        registry.setRestricted(TASK, true);
        registry.transferOwnership(TASK, bob);
        vm.assertFalse(registry.hasAccess(id, alice));
        vm.assertTrue(registry.hasAccess(id, bob));
    }

    // --- views ---------------------------------------------------------------------------------------

    function test_modelIdOf__any__bindsChainCoordinatorTaskAndRound() external {
        bytes32 expected = keccak256(abi.encode(block.chainid, address(coordinator), TASK, uint16(9)));
        vm.assertEq(registry.modelIdOf(TASK, 9), expected);
        vm.assertNotEq(registry.modelIdOf(TASK, 8), expected);
        vm.assertNotEq(registry.modelIdOf(TASK + 1, 9), expected);
        vm.chainId(block.chainid + 1);
        vm.assertNotEq(registry.modelIdOf(TASK, 9), expected);
    }

    function test_modelOf__unknown__reverts() external {
        bytes32 id = registry.modelIdOf(TASK, 0);
        vm.assertFalse(registry.exists(id));
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.UnknownModel.selector, id));
        registry.modelOf(id);
    }

    function test_lineOf__unknown__isEmpty() external view {
        IModelRegistry.Line memory line = registry.lineOf(TASK);
        vm.assertEq(line.owner, address(0));
        vm.assertEq(line.versions, 0);
        vm.assertEq(line.genesis, 0);
        vm.assertEq(line.latest, 0);
        vm.assertEq(line.licence, "");
    }

    function test_models__pages__areOldestFirst() external {
        bytes32[4] memory ids = [_genesis(TASK, alice, 0), _append(TASK, 1), _genesis(0, bob, 0), _append(TASK, 2)];
        vm.assertEq(registry.numModels(), 4);
        for (uint256 start; start < 6; ++start) {
            for (uint256 count; count < 6; ++count) {
                uint256 left = start < 4 ? 4 - start : 0;
                bytes32[] memory page = registry.models(start, count);
                vm.assertEq(page.length, count < left ? count : left);
                for (uint256 i; i < page.length; ++i) {
                    vm.assertEq(page[i], ids[start + i]);
                }
            }
        }
        vm.assertEq(registry.models(1, type(uint256).max).length, 3);
        vm.assertEq(registry.models(type(uint256).max, type(uint256).max).length, 0);
    }

    // --- moves and checks of these tests -------------------------------------------------------------

    /// @dev Deployed by CREATE2, so that the address depends on no nonce.
    function _registryOf(address coordinator_) private view returns (address) {
        bytes32 creation = keccak256(abi.encodePacked(type(ModelRegistry).creationCode, abi.encode(coordinator_)));
        return address(uint160(uint256(keccak256(abi.encodePacked(hex"ff", this, bytes32(0), creation)))));
    }

    function _assertWrongWiring(address coordinator_) private {
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.WrongWiring.selector, coordinator_));
        new ModelRegistry{ salt: 0 }(coordinator_);
    }

    function _genesis(uint256 taskId, address requester, bytes32 parent) private returns (bytes32) {
        coordinator.setOrigin(taskId, ResultStub.Origin(requester, SPEC, parent, LICENCE));
        return _append(taskId, 0);
    }

    function _append(uint256 taskId, uint16 round) private returns (bytes32) {
        coordinator.setResult(taskId, _result(round));
        return registry.register(taskId);
    }

    /// @dev A result whose every field differs from the others' and from round to round.
    function _result(uint16 round) private pure returns (ModelResult memory) {
        return ModelResult({
            round: round,
            attempt: 1,
            accepted: 5 + round % 100,
            openedBlock: 100 + uint40(round),
            aggregator: vm.addr(900 + uint256(round)),
            modelRoot: keccak256(abi.encode("root", round)),
            updatesHash: keccak256(abi.encode("updates", round)),
            cid: Cid(keccak256(abi.encode("cid", round)), 0x70),
            floatCid: Cid(keccak256(abi.encode("float", round)), 0x55)
        });
    }

    function _model(bytes32 parent, uint256 taskId, ModelResult memory result)
        private
        view
        returns (IModelRegistry.Model memory)
    {
        return IModelRegistry.Model({
            parent: parent,
            taskId: taskId,
            round: result.round,
            attempt: result.attempt,
            accepted: result.accepted,
            openedBlock: result.openedBlock,
            registeredBlock: uint40(block.number),
            registeredAt: uint40(block.timestamp),
            aggregator: result.aggregator,
            modelRoot: result.modelRoot,
            updatesHash: result.updatesHash,
            cid: result.cid,
            floatCid: result.floatCid
        });
    }

    function _assertModel(bytes32 id, bytes32 parent, uint256 taskId, ModelResult memory result) private view {
        vm.assertTrue(registry.exists(id));
        vm.assertEq(abi.encode(registry.modelOf(id)), abi.encode(_model(parent, taskId, result)));
    }
}
