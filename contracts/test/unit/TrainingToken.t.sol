// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { ERC20Permit } from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

import { TrainingToken } from "../../src/TrainingToken.sol";
import { Test } from "../base/Test.sol";

/// @notice Follows TrainingToken.tree.
contract TrainingTokenTest is Test {
    uint256 internal constant INITIAL = 1_000_000 ether;
    uint256 internal constant FAUCET = 2500 ether;
    uint256 internal constant DRIP = 1000 ether;
    uint256 internal constant INTERVAL = 1 days;

    address internal alice = vm.addr(0xA11CE);
    address internal bob = vm.addr(0xB0B);

    TrainingToken internal token;

    function setUp() external {
        vm.warp(1_000_000);
        token = new TrainingToken(INITIAL, FAUCET, DRIP, INTERVAL);
    }

    function test_construction__metadata__isSet() external view {
        vm.assertEq(token.name(), "chainfl training token");
        vm.assertEq(token.symbol(), "CFL");
        vm.assertEq(token.decimals(), 18);
        vm.assertEq(token.dripAmount(), DRIP);
        vm.assertEq(token.dripInterval(), INTERVAL);
    }

    function test_construction__supply__isMintedToDeployerAndFaucet() external view {
        vm.assertEq(token.balanceOf(address(this)), INITIAL);
        vm.assertEq(token.balanceOf(address(token)), FAUCET);
        vm.assertEq(token.totalSupply(), INITIAL + FAUCET);
    }

    function test_construction__noSupply__deploys() external {
        TrainingToken empty = new TrainingToken(0, 0, DRIP, INTERVAL);
        vm.assertEq(empty.totalSupply(), 0);
        vm.expectRevert(TrainingToken.FaucetEmpty.selector);
        empty.drip();
    }

    function test_drip__first__givesAmount() external {
        vm.expectEmit();
        emit TrainingToken.Dripped(alice, DRIP);
        _drip(alice);
        vm.assertEq(token.balanceOf(alice), DRIP);
        vm.assertEq(token.balanceOf(address(token)), FAUCET - DRIP);
        vm.assertEq(token.totalSupply(), INITIAL + FAUCET);
    }

    function test_drip__otherAccount__doesNotWait() external {
        _drip(alice);
        _drip(bob);
        vm.assertEq(token.balanceOf(bob), DRIP);
    }

    function test_drip__sameSecond__reverts() external {
        _drip(alice);
        vm.expectRevert(abi.encodeWithSelector(TrainingToken.FaucetTooSoon.selector, 1_000_000 + INTERVAL));
        _drip(alice);
    }

    function test_drip__oneSecondEarly__reverts() external {
        _drip(alice);
        vm.warp(1_000_000 + INTERVAL - 1);
        vm.expectRevert(abi.encodeWithSelector(TrainingToken.FaucetTooSoon.selector, 1_000_000 + INTERVAL));
        _drip(alice);
    }

    function test_drip__intervalPassed__givesAmount() external {
        _drip(alice);
        vm.warp(1_000_000 + INTERVAL);
        _drip(alice);
        vm.assertEq(token.balanceOf(alice), 2 * DRIP);
    }

    function test_drip__oneSecondLate__givesAmount() external {
        _drip(alice);
        vm.warp(1_000_000 + INTERVAL + 1);
        _drip(alice);
        vm.assertEq(token.nextDripAt(alice), 1_000_001 + 2 * INTERVAL);
    }

    function test_drip__noInterval__givesAtEveryCall() external {
        TrainingToken eager = new TrainingToken(0, FAUCET, DRIP, 0);
        vm.startPrank(alice);
        eager.drip();
        eager.drip();
        vm.assertEq(eager.balanceOf(alice), 2 * DRIP);
    }

    function test_drip__exactlyOneLeft__givesIt() external {
        TrainingToken last = new TrainingToken(0, DRIP, DRIP, INTERVAL);
        vm.prank(alice);
        last.drip();
        vm.assertEq(last.balanceOf(address(last)), 0);
    }

    function test_drip__oneWeiLess__reverts() external {
        TrainingToken last = new TrainingToken(0, DRIP - 1, DRIP, INTERVAL);
        vm.prank(alice);
        vm.expectRevert(TrainingToken.FaucetEmpty.selector);
        last.drip();
        vm.assertEq(last.nextDripAt(alice), 0);
    }

    function test_drip__refilled__givesAgain() external {
        _drip(alice);
        _drip(bob);
        vm.expectRevert(TrainingToken.FaucetEmpty.selector);
        _drip(address(1));
        vm.assertTrue(token.transfer(address(token), DRIP));
        _drip(address(1));
        vm.assertEq(token.balanceOf(address(1)), DRIP);
    }

    function test_nextDripAt__neverDripped__isZero() external view {
        vm.assertEq(token.nextDripAt(alice), 0);
    }

    function test_nextDripAt__dripped__isAnIntervalLater() external {
        _drip(alice);
        vm.assertEq(token.nextDripAt(alice), 1_000_000 + INTERVAL);
    }

    function test_permit__ownersSignature__setsAllowance() external {
        (uint8 v, bytes32 r, bytes32 s) = _signPermit(0xA11CE);
        token.permit(alice, bob, 5, block.timestamp, v, r, s);
        vm.assertEq(token.allowance(alice, bob), 5);
        vm.assertEq(token.nonces(alice), 1);
    }

    function test_permit__anothersSignature__reverts() external {
        (uint8 v, bytes32 r, bytes32 s) = _signPermit(0xB0B);
        vm.expectRevert(abi.encodeWithSelector(ERC20Permit.ERC2612InvalidSigner.selector, bob, alice));
        token.permit(alice, bob, 5, block.timestamp, v, r, s);
    }

    function _drip(address account) private {
        vm.prank(account);
        token.drip();
    }

    function _signPermit(uint256 key) private view returns (uint8 v, bytes32 r, bytes32 s) {
        bytes32 typehash =
            keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        bytes32 inner = keccak256(abi.encode(typehash, alice, bob, 5, token.nonces(alice), block.timestamp));
        return vm.sign(key, keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), inner)));
    }
}
