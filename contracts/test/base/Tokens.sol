// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { ERC20 } from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import { ERC20Permit } from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @notice A well-behaved token that anybody mints.
contract MintableToken is ERC20, ERC20Permit {
    constructor() ERC20("test token", "TEST") ERC20Permit("test token") { }

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }
}

/// @notice Does what a token should not, on demand: takes a fee or gives a bonus on the way in, empties the receiver,
/// answers false, reverts, refuses an account, or calls somebody in the middle of a transfer.
contract HostileToken is MintableToken {
    uint256 public fee;
    uint256 public bonus;
    bool public shrinks;
    bool public answersFalse;
    bool public reverts;
    mapping(address account => bool) public refused;

    address public callee;
    bytes public callData;
    bool public calleeSucceeded;
    bytes public calleeAnswer;

    error Refused(address account);

    function setFee(uint256 value) external {
        fee = value;
    }

    function setBonus(uint256 value) external {
        bonus = value;
    }

    function setShrinks(bool value) external {
        shrinks = value;
    }

    function setAnswersFalse(bool value) external {
        answersFalse = value;
    }

    function setReverts(bool value) external {
        reverts = value;
    }

    function setRefused(address account, bool value) external {
        refused[account] = value;
    }

    /// @dev Every later transfer makes this call once it has moved the balances, and keeps the answer.
    function setCall(address to, bytes calldata data) external {
        (callee, callData) = (to, data);
    }

    function transfer(address to, uint256 amount) public override returns (bool) {
        if (reverts || refused[to]) revert Refused(to);
        if (answersFalse) return false;
        super.transfer(to, amount);
        _call();
        return true;
    }

    function transferFrom(address from, address to, uint256 amount) public override returns (bool) {
        if (reverts) revert Refused(from);
        if (answersFalse) return false;
        super.transferFrom(from, to, amount);
        if (fee > 0) _burn(to, fee);
        if (bonus > 0) _mint(to, bonus);
        if (shrinks) _burn(to, balanceOf(to));
        _call();
        return true;
    }

    function _call() private {
        if (callee == address(0)) return;
        (calleeSucceeded, calleeAnswer) = callee.call(callData);
    }
}

/// @notice Answers nothing at all from its transfers, as the oldest tokens do, and knows no permit.
contract SilentToken {
    mapping(address account => uint256) public balanceOf;
    mapping(address owner => mapping(address spender => uint256)) public allowance;

    function mint(address to, uint256 amount) external {
        balanceOf[to] += amount;
    }

    function approve(address spender, uint256 amount) external {
        allowance[msg.sender][spender] = amount;
    }

    function transfer(address to, uint256 amount) external {
        balanceOf[msg.sender] -= amount;
        balanceOf[to] += amount;
    }

    function transferFrom(address from, address to, uint256 amount) external {
        allowance[from][msg.sender] -= amount;
        balanceOf[from] -= amount;
        balanceOf[to] += amount;
    }
}
